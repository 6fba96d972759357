"""``python -m clrtool``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[
            0
        ]  # the current folder: nothing that lies there takes the place of torch, or of what torch imports
    from clrtool.cli.main import main

    main()
