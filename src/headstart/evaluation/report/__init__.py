"""The results document, and what is made of it: tables, pictures, a page."""
