"""How commands talk to people and disks: command lines, messages, files whole or not at all."""
