"""What a run of train.py starts from and with which settings: the rules, beside the paper's loop.

Stands above the scripts: train.py opens it inside its command.
"""
