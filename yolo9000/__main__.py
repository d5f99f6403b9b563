"""`python -m yolo9000`: the command line."""

from yolo9000.cli import main

if __name__ == "__main__":
    main()
