//! Frames and their replies, as memcached 1.6.45 was seen to give them.
