"""`python -m clearice` is the command `clearice`, for launchers that start a module."""

from clearice.cli import main

if __name__ == "__main__":
    main()
