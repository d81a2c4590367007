"""The site's pages, and the scripts that write some of them."""
