"""First names of women and of men, and surnames."""

WOMEN: list[str] = """
    Anna Maria Laura Emma Sophie Julia Clara Helen Alice Nina Rosa Diana Paula Irene Lucy Sarah Karen Linda Nancy Susan Emily Olivia
    Grace Hannah Martha Teresa Elena Monica Amelia Ruth
""".split()
MEN: list[str] = """
    Peter Paul John Mark David Thomas Henry George Oscar Simon Victor Hugo Felix Daniel James Robert Richard Edward Frank Martin
    Walter Arthur Carl Ben Tom Jack Adam Luke Ivan Marco
""".split()
FIRST_NAMES: list[str] = [name for pair in zip(WOMEN, MEN, strict=True) for name in pair]
SURNAMES: list[str] = """
    Smith Jones Brown Taylor Wilson Walker White Green Hall Wood Clarke Baker Turner Parker Cooper Morris Bell Murphy Kelly Foster
    Mason Webb Hunt Palmer Grant Stone Fisher Barnes Knight Hayes Garcia Lopez Silva Costa Rossi Weber Keller Novak Larsen Berg Moreau
    Dubois Ivanov Tanaka Sato Kim Chen Singh Khan Ali
""".split()
