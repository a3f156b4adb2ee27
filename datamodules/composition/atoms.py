"""Atomic weights and oxidation states, for those parts that must not import pymatgen.

Both are of pymatgen 2026.10.24 (MIT licence), hydrogen to lawrencium: `Element.atomic_mass`, which
are IUPAC's standard atomic weights (mass numbers of elements without a stable isotope), and
`Element.common_oxidation_states`.
"""

from datamodules.elements import ATOMIC_NUMBERS

_WEIGHTS = """
H 1.00794; He 4.0026; Li 6.941; Be 9.01218; B 10.811; C 12.0107; N 14.0067; O 15.9994;
F 18.9984; Ne 20.1797; Na 22.98977; Mg 24.305; Al 26.98154; Si 28.0855; P 30.97376; S 32.065;
Cl 35.453; Ar 39.948; K 39.0983; Ca 40.078; Sc 44.95591; Ti 47.867; V 50.9415; Cr 51.9961;
Mn 54.93805; Fe 55.845; Co 58.93319; Ni 58.6934; Cu 63.546; Zn 65.409; Ga 69.723; Ge 72.64;
As 74.9216; Se 78.96; Br 79.904; Kr 83.798; Rb 85.4678; Sr 87.62; Y 88.90585; Zr 91.224;
Nb 92.90638; Mo 95.94; Tc 98; Ru 101.07; Rh 102.9055; Pd 106.42; Ag 107.8682; Cd 112.411;
In 114.818; Sn 118.71; Sb 121.76; Te 127.6; I 126.90447; Xe 131.293; Cs 132.90545;
Ba 137.327; La 138.90547; Ce 140.116; Pr 140.90765; Nd 144.242; Pm 145; Sm 150.36;
Eu 151.964; Gd 157.25; Tb 158.92535; Dy 162.5; Ho 164.93032; Er 167.259; Tm 168.93421;
Yb 173.04; Lu 174.967; Hf 178.49; Ta 180.94788; W 183.84; Re 186.207; Os 190.23; Ir 192.217;
Pt 195.084; Au 196.96657; Hg 200.59; Tl 204.3833; Pb 207.2; Bi 208.9804; Po 210; At 210;
Rn 220; Fr 223; Ra 226; Ac 227; Th 232.03806; Pa 231.03588; U 238.02891; Np 237; Pu 244;
Am 243; Cm 247; Bk 247; Cf 251; Es 252; Fm 257; Md 258; No 259; Lr 262
"""

_OXIDATION_STATES = """
H -1,1; Li 1; Be 2; B 3; C -4,-3,-2,-1,0,1,2,3,4; N -3,3,5; O -2; F -1; Na 1; Mg 2; Al 3;
Si -4,4; P -3,3,5; S -2,2,4,6; Cl -1,1,3,5,7; K 1; Ca 2; Sc 3; Ti 4; V 5; Cr 3,6; Mn 2,4,7;
Fe 2,3; Co 2,3; Ni 2; Cu 2; Zn 2; Ga 3; Ge -4,2,4; As -3,3,5; Se -2,2,4,6; Br -1,1,3,5; Kr 2;
Rb 1; Sr 2; Y 3; Zr 4; Nb 5; Mo 4,6; Tc 4,7; Ru 3,4; Rh 3; Pd 2,4; Ag 1; Cd 2; In 3;
Sn -4,2,4; Sb -3,3,5; Te -2,2,4,6; I -1,1,3,5,7; Xe 2,4,6; Cs 1; Ba 2; La 3; Ce 3,4; Pr 3;
Nd 3; Pm 3; Sm 3; Eu 2,3; Gd 3; Tb 3; Dy 3; Ho 3; Er 3; Tm 3; Yb 3; Lu 3; Hf 4; Ta 5; W 4,6;
Re 4,7; Os 4; Ir 3,4; Pt 2,4; Au 3; Hg 1,2; Tl 1,3; Pb 2,4; Bi 3; Po -2,2,4; At -1,1; Fr 1;
Ra 2; Ac 3; Th 4; Pa 5; U 6; Np 5; Pu 4; Am 3; Cm 3; Bk 3; Cf 3; Es 3; Fm 3; Md 3; No 3;
Lr 3
"""


def _by_number(table: str) -> dict[int, str]:
    entries = (entry.split() for entry in table.replace("\n", " ").split(";"))
    return {ATOMIC_NUMBERS[symbol]: value for symbol, value in entries}


#: Atomic weight by atomic number, g/mol.
ATOMIC_WEIGHTS = {z: float(value) for z, value in _by_number(_WEIGHTS).items()}

#: Common oxidation states by atomic number; elements that have none are not in it.
OXIDATION_STATES = {
    z: tuple(int(state) for state in value.split(","))
    for z, value in _by_number(_OXIDATION_STATES).items()
}
