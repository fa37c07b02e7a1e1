"""`python -m heliostat` is `heliostat`."""

from heliostat.cli.main import main

if __name__ == "__main__":
    main()
