"""The command line as `python -m semsearch.cli`."""

from semsearch.cli import main

if __name__ == "__main__":
    main()
