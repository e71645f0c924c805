"""Inside: run a program and send what it prints, as it happens. Travels whole to the isolated one."""
import os
import subprocess
import sys

PIECE = 4096        # bytes in one message


def run(channel, job):
    """Run a program as `python program.py` does and send {"text": a piece of its output, a character
    a byte} until it ends, then {"code": its exit code, negative for a signal}.

    It is a process of its own with a pipe for standard output and error, because then what its child
    processes and C code print is shown too, and what it had printed before it crashed. How much is
    enough is for the receiver to say."""
    with open("program.py", "w", encoding="utf-8", errors="replace") as file:
        file.write(job["source"])
    command = [sys.executable, "-I", "-u", "-X", "utf8", "program.py"]
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    while piece := os.read(program.stdout.fileno(), PIECE):
        channel.send({"text": piece.decode("latin-1")})
    channel.send({"code": program.wait()})
