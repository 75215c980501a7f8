"""Who may do what: names, roles, passwords, tokens, an identity provider's tokens, and pauses between failed logins.

Nothing here knows of servers or of the ledger; `lib.store.accounts` keeps users.
"""
