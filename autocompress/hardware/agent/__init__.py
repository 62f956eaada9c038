"""The agent: loads one model in one engine, times it or runs it on inputs, and writes a JSON answer.

It runs in a process of its own, here or on a device, because an engine may crash, hang or be killed for memory. It
runs on Python 3.6 and newer, needs the standard library and the engine (with the NumPy that comes with it), and imports
nothing else of autocompress: on a host it is one file, this folder as a zip archive (`autocompress.hardware.hosts`)::

    python agent.pyz request.json answer.json

File names in a request are relative to the request's folder. A request holds

- ``engine``, and where only the engine and the host are asked for, ``"probe": true``;
- ``model``, ``precision``, ``device`` (``cpu`` or ``cuda``), ``threads``, ``options`` of the engine;
- ``time``: ``{"input": "x.npy", ...}`` with the settings of the protocol, and/or
- ``run``: ``{"inputs": ["a.npy"], "outputs": ["b.npy"]}``; an input may hold many samples, which are fed one by one;
- or, with the engine ``agent``, ``state``: ``{"seconds": 1.0, "gpu": true}`` (see `state.host_state`);
- ``turnstile``: folder of the host's lock files (see `turnstile`), or null;
- ``parent``: process that the agent must not outlive, or null.

The answer holds ``outcome`` (``ok``, ``unsupported``, ``invalid_output``, ``out_of_memory`` or ``crashed``),
``message``, and what was asked for. The file ``<answer>.phases`` gets a line at the start of every phase, so that a
death in the middle can be told as "SIGSEGV while compiling".
"""
