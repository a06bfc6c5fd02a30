"""Django's settings for its own cache tests: both of its memcached backends, on the usual port."""

ADDRESS = "127.0.0.1:11211"
BACKENDS = "django.core.cache.backends"

CACHES = {
    "default": {"BACKEND": f"{BACKENDS}.locmem.LocMemCache"},
    "pymemcache": {"BACKEND": f"{BACKENDS}.memcached.PyMemcacheCache", "LOCATION": ADDRESS},
    "pylibmc": {"BACKEND": f"{BACKENDS}.memcached.PyLibMCCache", "LOCATION": ADDRESS},
}
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3"},
    "other": {"ENGINE": "django.db.backends.sqlite3"},
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = "not a secret: the tests ask for one"
USE_TZ = False
