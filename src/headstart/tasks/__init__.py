"""What is learned from: suites, episodes, rendering to tokens, rows."""
