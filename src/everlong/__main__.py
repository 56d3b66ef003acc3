"""`python -m everlong`: the command line."""

from everlong.cli.main import main

if __name__ == "__main__":
    main()
