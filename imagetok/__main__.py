"""`python -m imagetok`: the same program as `imagetok`, for launchers such as torchrun."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the working folder first on the path; folders named `cli` or `prior` in it may
    # belong to another project.
    home = Path(__file__).resolve().parents[1]
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != home:
        del sys.path[0]
    from cli.main import main

    main()
