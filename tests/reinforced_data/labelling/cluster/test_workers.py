"""What runs tasks, as far as it needs no datatrove."""

import threading
from multiprocessing import Pipe

from reinforced_data.labelling.cluster import workers


def test_a_task_ends_when_the_process_that_began_it_is_gone(monkeypatch):
    ended, alive = Pipe(duplex=False)
    exits = []
    monkeypatch.setattr(workers.os, "_exit", exits.append)
    watching = threading.Thread(target=workers._end_with, args=(ended,))
    watching.start()
    watching.join(0.05)
    assert watching.is_alive()
    assert exits == []
    alive.close()  # as the system does for a process that is gone
    watching.join(10)
    assert exits == [1]
    ended.close()
