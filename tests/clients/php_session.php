<?php
/* Drives a server by php-memcached (libmemcached) through its whole surface, over the text protocol, the binary protocol
 * and a unix socket. Prints a line for each test, as `cargo test` does. Usage: php FILE SOCKET; a server listens on
 * 127.0.0.1:11211, another on SOCKET. */

declare(strict_types=1);

const HOST = '127.0.0.1';
const PORT = 11211;

function check(bool $condition, string $what): void
{
    if (!$condition) {
        throw new RuntimeException($what);
    }
}

function same(mixed $expected, mixed $got, string $what): void
{
    check($expected === $got, "$what: expected " . var_export($expected, true) . ', got ' . var_export($got, true));
}

function code(Memcached $client, int $expected, string $what): void
{
    same($expected, $client->getResultCode(), "$what ({$client->getResultMessage()})");
}

/** The binary protocol says why nothing was stored, the text protocol only that nothing was. */
function not_stored(Memcached $client, string $what, int $reason = Memcached::RES_NOTFOUND): void
{
    $binary = $client->getOption(Memcached::OPT_BINARY_PROTOCOL);
    code($client, $binary ? $reason : Memcached::RES_NOTSTORED, $what);
}

/** Every way to reach a server, with the options that make it so. */
function doors(string $socket): array
{
    return [
        'text' => [[HOST, PORT], []],
        'binary' => [[HOST, PORT], [Memcached::OPT_BINARY_PROTOCOL => true]],
        'unix' => [[$socket, 0], []],
        'buffered' => [[HOST, PORT], [Memcached::OPT_NO_BLOCK => true, Memcached::OPT_TCP_NODELAY => true]],
    ];
}

function client(array $door, array $more = []): Memcached
{
    [$server, $options] = $door;
    $client = new Memcached();
    check($client->setOptions($more + $options + [Memcached::OPT_POLL_TIMEOUT => 2000]), 'options');
    check($client->addServer(...$server), 'the server');
    return $client;
}

function kinds_of_values(Memcached $client): void
{
    $object = new stdClass();
    $object->part = [1, 'two'];
    $values = ['text' => 'some text', 'empty' => '', 'int' => 42, 'negative' => -7, 'float' => 2.5, 'true' => true,
        'false' => false, 'null' => null, 'list' => [1, 2, ['three' => 3]],
        'bytes' => "\0\r\nEND\r\n\xff", 'long' => str_repeat('0123456789', 60000)];
    foreach ($values as $key => $value) {
        check($client->set("kind-$key", $value), "set $key: {$client->getResultMessage()}");
        same($value, $client->get("kind-$key"), $key);
        code($client, Memcached::RES_SUCCESS, $key);
    }
    check($client->set('kind-object', $object), 'set an object');
    check($client->get('kind-object') == $object, 'an object');
    same(false, $client->get('kind-missing'), 'a missing key');
    code($client, Memcached::RES_NOTFOUND, 'a missing key');
}

function serializers(Memcached $client): void
{
    $value = ['a' => 1, 'b' => ['c', 'd']];
    foreach ([Memcached::SERIALIZER_PHP, Memcached::SERIALIZER_JSON_ARRAY, Memcached::SERIALIZER_MSGPACK,
        Memcached::SERIALIZER_IGBINARY] as $serializer) {
        if ($client->setOption(Memcached::OPT_SERIALIZER, $serializer)) {
            check($client->set("serialized-$serializer", $value), "set by $serializer");
            same($value, $client->get("serialized-$serializer"), "serializer $serializer");
        }
    }
}

function compression(Memcached $client): void
{
    $value = str_repeat('compressible ', 2000);
    foreach ([Memcached::COMPRESSION_ZLIB, Memcached::COMPRESSION_FASTLZ] as $kind) {
        $client->setOption(Memcached::OPT_COMPRESSION, true);
        $client->setOption(Memcached::OPT_COMPRESSION_TYPE, $kind);
        check($client->set("compressed-$kind", $value), "set with compression $kind");
        same($value, $client->get("compressed-$kind"), "compression $kind");
    }
}

function conditional_storage(Memcached $client): void
{
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    $client->delete('conditional');
    same(false, $client->replace('conditional', 'x'), 'replace of nothing');
    not_stored($client, 'replace of nothing');
    same(true, $client->add('conditional', 'first'), 'add');
    same(false, $client->add('conditional', 'second'), 'add again');
    not_stored($client, 'add again', Memcached::RES_DATA_EXISTS);
    same(true, $client->replace('conditional', 'middle'), 'replace');
    same(true, $client->append('conditional', '-after'), 'append');
    same(true, $client->prepend('conditional', 'before-'), 'prepend');
    same('before-middle-after', $client->get('conditional'), 'the whole');
    same(false, $client->append('conditional-missing', 'x'), 'append to nothing');
    not_stored($client, 'append to nothing', Memcached::RES_NOTSTORED);
}

function compare_and_swap(Memcached $client): void
{
    check($client->set('cas', 'one'), 'set');
    $read = $client->get('cas', null, Memcached::GET_EXTENDED);
    same('one', $read['value'], 'value');
    same(true, $client->cas($read['cas'], 'cas', 'two'), 'cas');
    same(false, $client->cas($read['cas'], 'cas', 'three'), 'an old cas');
    code($client, Memcached::RES_DATA_EXISTS, 'an old cas');
    same('two', $client->get('cas'), 'what stayed');
    $client->delete('cas');
    same(false, $client->cas($read['cas'], 'cas', 'four'), 'cas of nothing');
    code($client, Memcached::RES_NOTFOUND, 'cas of nothing');
}

function user_flags(Memcached $client): void
{
    check($client->setOption(Memcached::OPT_USER_FLAGS, 0x1234), 'the option');
    check($client->set('flags', 'x'), 'set');
    same(0x1234, $client->get('flags', null, Memcached::GET_EXTENDED)['flags'], 'flags');
}

function deletion(Memcached $client): void
{
    $client->set('gone', 'x');
    same(true, $client->delete('gone'), 'delete');
    same(false, $client->delete('gone'), 'delete again');
    code($client, Memcached::RES_NOTFOUND, 'delete again');
    $client->setMulti(['gone-1' => 1, 'gone-2' => 2]);
    $results = $client->deleteMulti(['gone-1', 'gone-2', 'gone-3']);
    same(true, $results['gone-1'] && $results['gone-2'], 'deleteMulti');
    same(Memcached::RES_NOTFOUND, $results['gone-3'], 'deleteMulti of nothing');
}

function many_keys(Memcached $client): void
{
    $values = [];
    for ($number = 0; $number < 500; $number++) {
        $values["many-$number"] = str_repeat("$number,", $number % 60 + 1);
    }
    same(true, $client->setMulti($values), 'setMulti');
    $keys = array_keys($values);
    same($values, $client->getMulti([...$keys, 'many-missing'], Memcached::GET_PRESERVE_ORDER) ?
        array_filter($client->getMulti($keys, Memcached::GET_PRESERVE_ORDER), 'is_string') : [], 'getMulti');
    $extended = $client->getMulti(['many-1', 'many-2'], Memcached::GET_EXTENDED);
    check(isset($extended['many-1']['cas'], $extended['many-2']['cas']), 'cas values');
    check($extended['many-1']['cas'] !== $extended['many-2']['cas'], 'different cas values');
}

function delayed_replies(Memcached $client): void
{
    $client->setMulti(['later-1' => 'a', 'later-2' => 'b', 'later-3' => 'c']);
    same(true, $client->getDelayed(['later-1', 'later-2'], true), 'getDelayed');
    $seen = [];
    while ($row = $client->fetch()) {
        $seen[$row['key']] = $row['value'];
    }
    ksort($seen);
    same(['later-1' => 'a', 'later-2' => 'b'], $seen, 'fetch');
    code($client, Memcached::RES_NOTFOUND, 'the end');
    $client->getDelayed(['later-3', 'later-missing']);
    same(['later-3' => 'c'], array_column($client->fetchAll(), 'value', 'key'), 'fetchAll');
    $got = [];
    $client->getDelayed(['later-1'], false, function ($client, $row) use (&$got) {
        $got[] = $row['value'];
    });
    same(['a'], $got, 'a callback');
}

function arithmetic(Memcached $client): void
{
    $client->delete('count');
    $client->set('count', 10);
    same(15, $client->increment('count', 5), 'increment');
    same(14, $client->decrement('count'), 'decrement');
    same(0, $client->decrement('count', 100), 'decrement stops at zero');
    $client->delete('count');
    if ($client->getOption(Memcached::OPT_BINARY_PROTOCOL)) {
        same(7, $client->increment('count', 5, 7), 'an initial value');
        same(12, $client->increment('count', 5, 7), 'after the initial value');
    } else {
        same(false, $client->increment('count'), 'increment of nothing');
        code($client, Memcached::RES_NOTFOUND, 'increment of nothing');
    }
    $client->set('word', 'word');
    same(false, @$client->increment('word'), 'increment of a word');
}

function expiry(Memcached $client): void
{
    check($client->set('mortal', 'x', 1), 'set');
    check($client->set('touched', 'x', 1), 'set');
    same(true, $client->touch('touched', 100), "touch ({$client->getResultMessage()})");
    same(false, $client->touch('touched-missing', 100), 'touch of nothing');
    code($client, Memcached::RES_NOTFOUND, 'touch of nothing');
    $limit = microtime(true) + 10;
    while ($client->get('mortal') !== false) {
        check(microtime(true) < $limit, 'it lives too long');
        usleep(20000);
    }
    code($client, Memcached::RES_NOTFOUND, 'expired');
    same('x', $client->get('touched'), 'touched in time');
    check($client->set('past', 'x', time() - 100), 'set in the past');
    same(false, $client->get('past'), 'an expiry in the past');
}

function by_key(Memcached $client): void
{
    same(true, $client->setByKey('group', 'grouped', 'v'), 'setByKey');
    same('v', $client->getByKey('group', 'grouped'), 'getByKey');
    same(true, $client->setMultiByKey('group', ['grouped-1' => '1', 'grouped-2' => '2']), 'setMultiByKey');
    same(['grouped-1' => '1', 'grouped-2' => '2'], $client->getMultiByKey('group', ['grouped-1', 'grouped-2'], Memcached::GET_PRESERVE_ORDER), 'getMultiByKey');
    same(true, $client->deleteByKey('group', 'grouped'), 'deleteByKey');
}

function read_through(Memcached $client): void
{
    $client->delete('through');
    $read = fn () => $client->get('through', function ($client, $key, &$value) {
        $value = "made for $key";
        return true;
    });
    same('made for through', $read(), 'made');
    same('made for through', $client->get('through'), 'stored');
}

function prefix(Memcached $client): void
{
    $client->set('plain', 'without');
    check($client->setOption(Memcached::OPT_PREFIX_KEY, 'prefix.'), 'the option');
    $client->set('plain', 'with');
    same('with', $client->get('plain'), 'with a prefix');
    $client->setOption(Memcached::OPT_PREFIX_KEY, '');
    same(['without', 'with'], [$client->get('plain'), $client->get('prefix.plain')], 'both');
}

function bad_input(Memcached $client): void
{
    same(false, $client->set(str_repeat('k', 251), 'x'), 'a long key');
    code($client, Memcached::RES_BAD_KEY_PROVIDED, 'a long key');
    same(false, $client->get(''), 'an empty key');
    same(true, $client->set(str_repeat('k', 250), 'x'), 'the longest key');
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    same(false, $client->set('huge', str_repeat('x', 2_000_000)), 'two megabytes');
    code($client, Memcached::RES_E2BIG, 'two megabytes');
    same(true, $client->set('after', 'x') && $client->get('after') === 'x', 'life goes on');
}

function administration(Memcached $client): void
{
    $stats = current($client->getStats());
    check($stats['pid'] > 0 && $stats['curr_items'] > 0 && $stats['threads'] > 0, 'stats');
    check(isset($stats['limit_maxbytes'], $stats['get_hits'], $stats['evictions']), 'names of stats');
    check(isset(current($client->getStats('settings'))['maxbytes']), 'settings');
    check(preg_match('/^\d+\.\d+/', current($client->getVersion())) === 1, 'version');
    $client->set('flushed', 'x');
    same(true, $client->flush(), 'flush');
    same(false, $client->get('flushed'), 'flushed');
    same(true, $client->quit(), 'quit');
    same(true, $client->set('again', 'x'), 'a new connection');
}

function buffered_writes(Memcached $client): void
{
    $client->setOption(Memcached::OPT_BUFFER_WRITES, true);
    for ($number = 0; $number < 300; $number++) {
        $client->set("buffered-$number", "value $number");
    }
    check($client->flushBuffers(), 'flushBuffers');
    same('value 299', $client->get('buffered-299'), 'the last');
    same('value 0', $client->get('buffered-0'), 'the first');
}

/** PHP's sessions kept in the cache: written, read, locked, destroyed. */
function sessions(array $door): void
{
    [[$host, $port], $options] = $door;
    ini_set('session.save_handler', 'memcached');
    ini_set('session.save_path', $port ? "$host:$port" : $host);
    ini_set('session.use_cookies', '0');
    ini_set('session.use_strict_mode', '0');
    ini_set('session.cache_limiter', '');
    ini_set('memcached.sess_binary_protocol', isset($options[Memcached::OPT_BINARY_PROTOCOL]) ? '1' : '0');
    session_id(bin2hex(random_bytes(16)));
    check(session_start(), 'start');
    $_SESSION['visits'] = [1, 2, 3];
    check(session_write_close(), 'write');
    $_SESSION = [];
    check(session_start(), 'start again');
    same([1, 2, 3], $_SESSION['visits'] ?? null, 'what was kept');
    check(session_destroy(), 'destroy');
    check(session_start(), 'start a third time');
    same(null, $_SESSION['visits'] ?? null, 'what was destroyed');
    check(session_destroy(), 'destroy');
}

function run(string $name, callable $test): bool
{
    try {
        $test();
        fwrite(STDOUT, "test $name ... ok\n");
        return true;
    } catch (Throwable $error) {
        fwrite(STDOUT, "$name: {$error->getMessage()}\ntest $name ... FAILED\n");
        return false;
    }
}

ob_start();
$parts = ['kinds_of_values', 'serializers', 'compression', 'conditional_storage', 'compare_and_swap', 'user_flags', 'deletion',
    'many_keys', 'delayed_replies', 'arithmetic', 'expiry', 'by_key', 'read_through', 'prefix', 'bad_input', 'buffered_writes',
    'administration'];
$passed = true;
foreach (doors($argv[1]) as $name => $door) {
    foreach ($parts as $part) {
        $passed = run("$name::$part", fn () => $part(client($door))) && $passed;
    }
    $passed = run("$name::sessions", fn () => sessions($door)) && $passed;
}
exit($passed ? 0 : 1);
