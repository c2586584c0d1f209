"""Why a list gave nothing: what was asked, compared with the nearest of what there is, off the path of the answer.

`misses.py` is told of each such list in a moment and looks into it later; `judge.py` compares; `memory.py` keeps the last
thousand.
"""
