"""``python -m relay`` is ``vpnmasq``."""

from relay.cli import main

if __name__ == "__main__":
    main(prog_name="vpnmasq")
