"""The `xxact` command. Chooses the program before importing torch, so that most start at once."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from datamodules.io.mistakes import told

HELP = """usage: xxact COMMAND …

Data (start at once, without torch):
  prepare prototypes | csv | cif | alexandria    structures -> a store of diffraction lines
  prepare patterns FOLDER                        measured patterns -> a store of profiles
  inspect STORE | PATTERN_FILE                   what it holds; draws a pattern

Training (recipes in configs/, later files and flags win):
  fit       --config RECIPE [--config OVERLAY …] [--run FOLDER] [--resume [auto]] [--key value …]
  validate  --config RECIPE --checkpoint CHECKPOINT
  test      --config RECIPE --checkpoint CHECKPOINT

Using a trained model (a checkpoint is enough, no recipe):
  predict   --checkpoint CHECKPOINT --formula FORMULA | --input SCAN|FOLDER|TABLE.csv …
  retrieve  --library STORE --input SCANS/ [--checkpoint CHECKPOINT] [--elements Fe,O] [--top N]
  serve     [--library STORE] [--checkpoint CHECKPOINT]     both as a page in the browser
  export    --checkpoint CHECKPOINT --output BACKBONE.safetensors

Many runs (each a `fit` of its own; killed ones continue when the command is given again):
  sweep     --config SWEEP.yaml [--jobs N]                          the best values of any keys
  study     convergence | representation | scaling --config STUDY.yaml [--jobs N]
  report    convergence | representation | scaling --study FOLDER    figures, tables, numbers
  report    polymorphs | robustness | evidence --checkpoint CHECKPOINT --store STORE …

What there is:
  runs      [FOLDER …] [--sort KEY] [--csv]    a table of all runs: state, changed keys, errors
  recipes                       recipes and overlays, with what they are for
  schema                        JSON schemas: editors complete and check recipes
  completion bash | zsh | fish  a script: TAB completes commands, flags, keys and recipes

`xxact COMMAND --help` tells more; `xxact fit --help` and `xxact fit --model.help MaskedXRD` list
every key. Start with `make pretrain`.
"""
_TRAINING = ("fit", "validate", "test")
#: Modules whose `main` runs a command. They are imported when it is given: most do without torch.
COMMANDS = {
    "prepare": "datamodules.prepare.command_line",
    "inspect": "datamodules.inspect",
    **dict.fromkeys(_TRAINING, "lightning_modules.training.command_line"),
    "predict": "lightning_modules.inference.command_line",
    "retrieve": "lightning_modules.retrieval.command_line",
    "serve": "lightning_modules.page.command_line",
    "export": "lightning_modules.checkpoints.export",
    "sweep": "lightning_modules.experiments.sweep.main",
    "study": "lightning_modules.experiments.study.main",
    "report": "lightning_modules.experiments.report.main",
    "runs": "lightning_modules.overview.runs",
    "recipes": "lightning_modules.overview.recipes",
    "schema": "lightning_modules.overview.schema",
    "completion": "lightning_modules.overview.completion",
}


def program(command: str) -> Callable[[Sequence[str]], int | None]:
    """What runs a command: a function of the words after it.

    Raises:
        ValueError: if there is no such command.
    """
    if command not in COMMANDS:
        raise ValueError(f"no command {command!r}; `xxact --help` lists them")
    runs: Callable[..., int | None] = import_module(COMMANDS[command]).main
    if command in _TRAINING:
        return lambda rest: runs([command, *rest])
    if command == "completion":
        return partial(runs, programs={name: partial(_run, name) for name in COMMANDS})
    return runs


def _run(command: str, rest: Sequence[str]) -> int:
    """Run a command; its program is imported now."""
    # Before torch is imported. Threads that spin while they wait for each other are a little faster
    # on an idle machine and slower without bound on a busy one (measured: two threads on two busy
    # cores, 21 materials/s; sleeping, 356).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return program(command)(rest) or 0


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command line without the program's name; None takes `sys.argv`.

    Returns:
        Exit status: 0; 1 if nothing came out, or for a bug of ours; 2 for a user's mistake and for
        what the system refuses, a full disk for example (told in one line); 130 when interrupted
        (Ctrl-C) and 143 when ended (SIGTERM).
    """
    if sys.platform == "win32":
        # Locks of runs and groups of processes are those of POSIX.
        print("xxact: error: runs on Linux, macOS and WSL; use WSL on Windows", file=sys.stderr)
        return 2
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    try:
        status = _run(words[0], words[1:])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("xxact: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has seen enough, as of `xxact inspect … | head`: neither a mistake nor a bug.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        line = told(error)
        if line is None:
            traceback.print_exc()
            return 1
        print(f"xxact: error: {line}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
