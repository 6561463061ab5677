"""Both stages under a seeded scheduler: real code, in-memory doubles of everything around it, a clock of its own.

loop        an event loop that waits for nothing and draws every order from the seed
process     a worker process: it can be killed, frozen and woken, stopped
faults      what goes wrong at which step, and the trace that says so
group       a consumer group and what a worker sees of it
ports       log, ledger, store, producer and encoder as one process reaches them
scenario    what is sent
worker      what a process runs
world       everything that outlives a process; one schedule from its beginning to its end
verify      what must hold after it
schedules   many schedules, on several processors
mutants     rules left out, to prove that a schedule can fail
"""
