"""``halbctl``: the operator's client of ``halb-agent``.

Data goes to stdout, everything else to stderr; exit codes are those of
:class:`protocol.errors.ExitCode`. Modules import at their top only what each
command needs, because an operator waits for imports.
"""
