#!/usr/bin/env python3
"""Batch reindex, for cron: papers from sources in, a new generation published.

    scripts/reindex.py --index indexes/mine exports/*.jsonl.zst

Takes the options of `semsearch index` and is that command: safe to kill and to run again, and a second one at the same
time refuses. Exit code 0: published; 1: something could not be read or written, with a line that says what.
"""

import sys

from semsearch.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["index"]
    main()
