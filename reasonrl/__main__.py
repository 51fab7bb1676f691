"""`python -m reasonrl`, for places where the console script is not on the PATH."""

from reasonrl.cli import main

if __name__ == "__main__":
    main()
