"""The database as all features use it: sessions, bulk statements, keyset pages, the shared clock and the commit signal.

No feature's tables are here; `all_tables` names the modules that have them.
"""
