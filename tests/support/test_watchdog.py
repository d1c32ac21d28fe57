import asyncio
import sys
import time
from pathlib import Path

import pytest

from tests.support.watchdog import run_isolated


def greet() -> None:
    print("hello from", __name__)


def test_source_runs_and_its_outputs_come_back() -> None:
    done = run_isolated("""
        import sys
        print("out")
        print("err", file=sys.stderr)
    """)

    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_a_function_runs_in_the_child() -> None:
    assert run_isolated(greet).stdout == "hello from tests.support.test_watchdog\n"


def test_a_nested_function_is_refused() -> None:
    def nested() -> None: ...

    with pytest.raises(ValueError, match="nested is not a function of its module's top level"):
        run_isolated(nested)


def test_a_hang_fails_with_the_stacks_of_all_threads() -> None:
    with pytest.raises(AssertionError) as caught:
        run_isolated(
            """
            import threading
            lock = threading.Lock()
            def take():
                lock.acquire()
            take()
            threading.Thread(target=take, daemon=True).start()
            take()
            """,
            timeout=1,
        )

    text = str(caught.value)
    assert text.startswith("hung for 1 s")
    assert text.count("in take") == 2


def test_a_failing_child_is_a_failure_unless_its_exit_code_is_wanted() -> None:
    with pytest.raises(AssertionError, match="exit code 3"):
        run_isolated("raise SystemExit(3)")

    assert run_isolated("raise SystemExit(3)", check=False).returncode == 3


def slow() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0  # each step takes as long
        await asyncio.sleep(0)
        loop.call_exception_handler({"message": "something is wrong"})

    asyncio.run(main())


def test_asyncio_says_what_is_wrong_and_not_how_busy_the_machine_is() -> None:
    said = run_isolated(slow, interpreter_args=["-X", "dev", "-W", "error"]).stderr

    assert said.startswith("something is wrong\n")
    assert "Executing" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_of_the_child_do_not_outlive_it() -> None:
    source = """
        import subprocess, sys
        nap = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(nap.pid)
    """

    grandchild = int(run_isolated(source).stdout)

    deadline = time.monotonic() + 30
    while _is_running(grandchild):
        assert time.monotonic() < deadline, "the grandchild lives on"


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
