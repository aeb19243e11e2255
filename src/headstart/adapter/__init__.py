"""What comes out: the frozen meta-adapter, adapting it, and the folders both are kept in."""

# before peft, which imports bitsandbytes its own way
import headstart.model  # noqa: F401
