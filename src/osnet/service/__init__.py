"""A page and an HTTP API over archives: who was that, where, when. ``osnet serve ARCHIVE...`` starts it.

It keeps accounts, an audit log, cases, answers and jobs (``database``), searches archives (``library``), deletes
what is too old (``retention``) and erases people on request (``erasure``).
"""
