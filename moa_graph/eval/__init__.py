"""The paper's evaluation: AlpacaEval 2.0, MT-Bench, FLASK, and the analysis of section 3.3.

`pip install "moa-graph[eval]"` brings what it needs. Nothing of that is imported before it is used, and nothing else
in moa_graph imports it.
"""
