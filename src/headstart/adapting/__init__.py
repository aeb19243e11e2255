"""Taking a meta-adapter to data: one file or a thousand, four rows or a hundred thousand."""
