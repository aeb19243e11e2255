"""What comes out: the frozen meta-adapter, adapting it, and the folders both are kept in."""
