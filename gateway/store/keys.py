"""Every key of the store on one page: its name, its type and its lifetime.

`{0}` is the shard's hash tag, so that all keys of a shard live in one slot of a cluster.

    gw:{0}:run:ID              hash    a run: request, state, fence, times, step:<id>.., told,
                                       signal:<n>.. (their number: words), once:<name>..   until retention
    gw:{0}:runs:STATE          zset    ids of the runs in that state, scored by id         as its runs
    gw:{0}:runs:of:WORKFLOW    zset    ids of the runs of a workflow (by its id)             as its runs
    gw:{0}:runs:chaining       zset    ended runs that another workflow listens to, scored by when to look (ms)
                                       until what they start is stored
    gw:{0}:chains:wake         list    as runs:wake, for those                             consumed
    gw:{0}:listened            set     names and ids of workflows that stand in an `on:`   for ever
    gw:{0}:schedules           hash    "workflow schedule" -> its last tick done (ms)      as its schedule
    gw:{0}:conversation:ID     list    ids of the runs of a conversation                   as its runs
    gw:{0}:runs:queue          zset    arq's queue of runs, scored by their turn, or by    while open
                                       when due (ms) for those that have begun or wait
    gw:{0}:runs:lanes          hash    lane (app, token, hook) -> its next turn            while any is queued
    gw:{0}:runs:held:REASON    zset    ids of the runs that this holds, scored by since    while held
    gw:{0}:runs:wake           list    one token a batch; idle workers block on it         consumed
    gw:{0}:runs:last           string  the last run id given                               for ever
    gw:{0}:gate:NAME:active    zset    ids of the runs in a concurrency gate; NAME is      while any is
                                       the workflow's name and its key's hash
    gw:{0}:gate:NAME:waiting   zset    ids of the runs before it, scored by -priority      while any is
    gw:{0}:throttle:NAME       string  GCRA: when the rate is back to nothing (ms)         until then
    gw:{0}:rate:NAME           string  the same of a rate limit                            until then
    gw:{0}:arrivals:APP        string  the same of an app's `rate`, at its door            until then
    gw:{0}:debounce:NAME       hash    the run that a request joins, and its latest start  until it begins
    gw:{0}:batch:NAME          hash    the run that a request joins, its items and bytes   until it begins
    gw:{0}:callback:ID         hash    a callback: body, url, state, attempt:<n>..         until retention
    gw:{0}:callbacks:STATE     zset    ids of the callbacks in that state                  as its callbacks
    gw:{0}:callbacks:queue     zset    arq's queue of callbacks, scored by when due (ms)   while open
    gw:{0}:callbacks:lanes     zset    endpoint ids, scored by when to look at them (ms)   while any is open
    gw:{0}:callbacks:lane:EP   zset    ids of an endpoint's open callbacks, scored by when
                                       due, or by the end of their lease; not those that
                                       stand in a line                                     while any is
    gw:{0}:callbacks:busy:EP   zset    ids of those on their way, scored by lease's end    while any is
    gw:{0}:callbacks:line:EP:HASH  zset  ids of an endpoint's open callbacks with the same
                                       order key, scored by their place; the first goes    while any is
    gw:{0}:callbacks:last      string  the last place in a line that was given             for ever
    gw:{0}:endpoint:EP         hash    how an endpoint fares: failures, breaker, pace, why
                                       it is disabled                                      30 days after its last attempt;
                                       while disabled, for ever
    gw:{0}:endpoints:news      set     endpoints that were disabled, to be told of         until told
    gw:{0}:callbacks:wake      list    as runs:wake                                        consumed
    gw:{0}:event:ID            hash    a verified delivery: head, body, runs, repeats      until retention; then
                                       only its runs, while the dedupe window is open
    gw:{0}:events              zset    event ids, scored by when received (ms)             as its events
    gw:{0}:seen:APP:KEY        string  "event id, body hash, run ids" of a delivery        dedupe window
    gw:{0}:balance:PAYER       hash    credits left of a token or app, and since when      for ever
    gw:{0}:answer:DIGEST       string  what a write with an Idempotency-Key was answered   a day
    gw:{0}:refusal:ID          hash    a delivery that left no event, sampled: record, perhaps body  a week, capped
    gw:{0}:refused             zset    their ids, scored by when (ms); also refused:of:APP, and of those with a
                                       body refused:bodies and refused:bodies:APP          capped by count
    gw:{0}:rules               hash    digest -> by which rules an app judged              for ever
    gw:{0}:secrets:used        hash    app:fingerprint of a secret's place -> how often it proved a sender,
                                       and since and last (s)                              for ever
    gw:{0}:counts              hash    how many runs, steps, callbacks ended how; what was mended,
                                       removed and archived                                for ever
    gw:{0}:workers             zset    workers, scored by their last look at the queue     one hour
    gw:{0}:pulse               string  written by /readyz to see that it can be           one minute
    gw:{0}:sweep               string  which worker sweeps now                             its lease
    gw:{0}:sweeps              hash    where the sweep's walks go on, when the last ended  for ever
    gw:{0}:apps                hash    app id -> app                                       for ever
    gw:{0}:pairs               hash    app id -> the secret that its sender handed over,
                                       sealed, and when (ms)                               as its app
    gw:{0}:secrets             hash    name -> a secret, sealed, and since when (ms)       until removed
    gw:{0}:workflows           hash    name -> the published version                       for ever
    gw:{0}:workflows:last      string  the highest id of a workflow that was removed        for ever
    gw:{0}:definition:DIGEST   string  one version of a workflow                           for ever
    gw:{0}:versions:NAME       hash    version number -> digest, label, when published     for ever
    gw:{0}:tokens              hash    token id -> what it may do, and its hash            until removed
    gw:{0}:tokens:used         zset    token ids, scored by their last use (s, to the minute)  for ever
    gw:{0}:receipts:APP        stream  an app's chain of receipts: the places of its events  capped by count
    gw:{0}:audit               stream  who changed what, chained by hashes                  for ever
    gw:{0}:reconciled          hash    app id -> up to when its sender's list is reconciled  for ever
    gw:{0}:reconciled:APP      string  a worker does this round                             until the next
    gw:{0}:hooks               hash    hook id -> its workflow, and its token's hash       until removed
    gw:{0}:heard               zset    app ids, scored by their last event (s), where an app says expect_every  for ever
    gw:{0}:silent              hash    app id -> the event after which its silence was told  for ever
    gw:{0}:endpoints           hash    endpoint id -> endpoint                             until removed
    gw:{0}:revision            string  counts changes of apps, workflows, tokens, hooks, endpoints  for ever
    gw:{0}:changed             channel one of those changed
    gw:{0}:poke                channel "run ID": something happened to it from outside
    gw:{0}:moved:run:ID        channel the state of a run after it, or one of its steps, moved (also moved:callback:ID)
    gw:{0}:poke                channel "run ID": something happened to it, whoever works on it must look
    gw:{0}:said:run:ID         channel what a step of the run is just saying
    gw:{0}:stop                channel "run ID": whoever works on it must let go

    arq:job:{0}run:ID          string  arq's job, JSON, holds the run's id only            while open
    arq:in-progress:{0}run:ID  string  who holds the lease on the job                      the lease
    (the same with {0}callback:ID)
"""

from __future__ import annotations

import msgspec


class Keys(msgspec.Struct, frozen=True):
    """The names of one shard's keys."""

    shard: str = "0"

    @property
    def tag(self) -> str:
        return "{" + self.shard + "}"

    @property
    def prefix(self) -> str:
        return f"gw:{self.tag}:"

    def run(self, run_id: int) -> str:
        return f"{self.prefix}run:{run_id}"

    def callback(self, callback_id: str) -> str:
        return f"{self.prefix}callback:{callback_id}"

    def event(self, event_id: str) -> str:
        return f"{self.prefix}event:{event_id}"

    def refusal(self, refusal_id: str) -> str:
        return f"{self.prefix}refusal:{refusal_id}"

    def seen(self, app_id: int, key: str) -> str:
        return f"{self.prefix}seen:{app_id}:{key}"

    def definition(self, digest: str) -> str:
        return f"{self.prefix}definition:{digest}"

    def state(self, kind: str, state: str) -> str:
        return f"{self.prefix}{kind}s:{state}"

    def versions(self, name: str) -> str:
        return f"{self.prefix}versions:{name}"

    def queue(self, kind: str) -> str:
        return f"{self.prefix}{kind}s:queue"

    def held(self, reason: str) -> str:
        return f"{self.prefix}runs:held:{reason}"

    def gate(self, name: str, part: str) -> str:
        return f"{self.prefix}gate:{name}:{part}"

    def wake(self, kind: str) -> str:
        return f"{self.prefix}{kind}s:wake"

    def job(self, kind: str, item_id: object) -> str:
        """arq's job id of one run or callback."""
        return f"{self.tag}{kind}:{item_id}"

    def moved(self, kind: str, item_id: object) -> str:
        return f"{self.prefix}moved:{kind}:{item_id}"

    def said(self, run_id: int) -> str:
        return f"{self.prefix}said:run:{run_id}"

    def runs_of(self, workflow_id: int) -> str:
        return f"{self.prefix}runs:of:{workflow_id}"

    def conversation(self, conversation_id: str) -> str:
        return f"{self.prefix}conversation:{conversation_id}"

    def balance(self, payer: str) -> str:
        return f"{self.prefix}balance:{payer}"

    def answer(self, digest: str) -> str:
        return f"{self.prefix}answer:{digest}"

    def health(self, endpoint_id: str) -> str:
        return f"{self.prefix}endpoint:{endpoint_id}"

    def lane(self, endpoint_id: str) -> str:
        return f"{self.prefix}callbacks:lane:{endpoint_id}"

    def line(self, endpoint_id: str, digest: str) -> str:
        return f"{self.prefix}callbacks:line:{endpoint_id}:{digest}"

    def busy(self, endpoint_id: str) -> str:
        return f"{self.prefix}callbacks:busy:{endpoint_id}"

    def named(self, name: str) -> str:
        """One of the keys there is only one of: `apps`, `counts`, `workers`, .."""
        return f"{self.prefix}{name}"
