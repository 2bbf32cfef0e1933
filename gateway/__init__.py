"""The event gateway: receives webhooks, proves who sent them, stores and runs what they start, and calls back, signed.

Follow one event from door to callback. `web.receiver` reads its bytes, and `service` judges them: `signatures` say who
sent them, `handshakes` whether they only ask something, `triggers` which workflows they start, `flow` what may hold those
runs back; `store.accepting` writes event and runs down in one script, and only then is it answered. Other starts take the
same way in: `control` for the APIs and the dialects, `starts` for the clock and for the ends of other runs, `steering` for
repetitions, `replaying` for events that came before, `workers.family` for steps.

`workers.dispatcher` claims a run when its turn has come. `workers.execute` then goes round: `plans` decides from what is
recorded what comes next (`waits` for steps that no worker does), `workers.attempts` does one step, and `store.records`
writes it down under the fence, until the run ends or is parked for a time, a word or another run. Its end is put into
the `outbox` by the same script, `workers.deliver` tells the world, and `workers.chain` starts what listens to it.
`workers.sweep` finds the open runs that lost their job.

`asgi.create_app` and `workers.main` put the parts together.
"""

__version__ = "0.1.0"
