"""The paper’s protocol, statistics, baselines, searches and tuning."""
