"""How sources read what several of them have: streams of JSON entries, tables of labels."""
