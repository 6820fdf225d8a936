"""`python -m imagetok`: the same program as `imagetok`, for launchers of several processes."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python put the working folder first on the path, where folders named `cli` or `prior` may
    # belong to another project.
    home = Path(__file__).resolve().parents[1]
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != home:
        del sys.path[0]
    from cli.main import main

    main()
