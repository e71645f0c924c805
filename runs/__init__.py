"""What a run starts from and with which settings: the rules, beside the paper's lines.

Stands above the scripts: train.py opens it inside its command, humaneval.py and mtpb.py inside
`generate` (sampling.py).
"""
