import sys
from pathlib import Path

# Under --import-mode=importlib nothing is put on the path, and the cases are shared.
sys.path.insert(0, str(Path(__file__).parent))
