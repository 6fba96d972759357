"""``python -m clrtool``."""

from clrtool.cli.main import main

if __name__ == "__main__":
    main()
