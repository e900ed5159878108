"""An agent that misbehaves as its task says: a plain callable, and, run as a script, a program.

Only the standard library, so that it runs in any interpreter.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request


def act(task, llm):
    return globals()[f"_{task['do']}"](task)


async def act_later(task, llm):
    return act(task, llm)


def act_on_the_task(task):
    return {"reward": float(task["value"]), "key": float(len(os.environ["OPENAI_API_KEY"]))}


def act_with_pins(task, llm):
    import al_ray_pinned

    return al_ray_pinned.version


def _give(task):
    return task["value"]


def _give_late(task):
    time.sleep(3)
    return task["value"]


def _print(task):
    print("said aloud")
    print("said aside", file=sys.stderr)
    logging.getLogger("agent").warning("said to the log")
    return 1.0


def _print_much(task):
    for number in range(50_000):
        print(f"line {number}")
    return 1.0


def _raise(task):
    print("about to fail", file=sys.stderr)
    raise ValueError("a mistake of the agent")


def _exit(task):
    print("no good", file=sys.stderr)
    os._exit(3)


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(task):
    time.sleep(1000)


def _clean_up(task):
    try:
        time.sleep(1000)
    finally:
        with open(task["mark"], "w") as file:
            file.write("done")


def _ignore_sigterm(task):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def _leave_a_daemon(task):
    """Two forks and a session away from whoever might look for it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        os._exit(0)
    return 1.0


def _fork(task):
    """The copy returns as its parent does, and before it."""
    copy = os.fork()
    if copy:
        os.waitpid(copy, 0)
    return 1.0 if copy else 0.0


def _multiply(task):
    """Thirty processes, in groups and sessions of their own, that ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for generation in range(4):
        if os.fork() == 0 and generation % 2:
            os.setsid()
        os.fork()
    time.sleep(1000)


def _start_programs(task):
    for _ in range(3):
        subprocess.Popen(["sleep", "1000"])
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    time.sleep(1000)


def _give_at_length(task):
    return {"reward": 1.0, "x" * task["size"]: 0.5}


def _return_much(task):
    return {"reward": 1.0, "text": "x" * (17 * 2**20)}


def _return_an_object(task):
    return object()


def _ask(task):
    """Whatever proxies the environment names; what it finds there comes along."""
    with urllib.request.urlopen(task["url"] + "/models") as response:
        assert response.status == 200
    return {"reward": 1.0, "environment": dict(os.environ)}


async def ask_later(task, llm):
    return _ask(task)


def see_and_judge(task, output):
    return {
        "reward": 1.0,
        "named": float("NAMED" in os.environ),
        "secrets": float("PGPASSWORD" in os.environ),
    }


def _see(task):
    return dict(os.environ)


if __name__ == "__main__":
    answer = act(json.load(sys.stdin), None)
    print(json.dumps({"reward": answer} if isinstance(answer, float) else answer))
