"""The event gateway: receives webhooks, proves who sent them, stores and runs what they start, and calls back, signed.

Follow one event from door to callback: `web.receiver` reads its bytes, `service` judges them with `signatures` and
`triggers`, `store.accepting` writes it down, `workers.dispatcher` claims its run, `workers.execute` carries it through,
`workers.deliver` tells the world. `asgi.create_app` and `workers.main` put the parts together.
"""

__version__ = "0.1.0"
