# Run by nbdsh, connected to a disk of 64 MiB that reads as zeroes; prints "all is well" at the end.
import errno

size = 64 << 20
assert h.get_size() == size
assert h.get_protocol() == "newstyle-fixed"
assert h.get_structured_replies_negotiated()
assert h.can_meta_context("base:allocation")
for able in (h.can_cache, h.can_df, h.can_fast_zero, h.can_flush, h.can_fua, h.can_multi_conn, h.can_trim, h.can_zero):
    assert able(), able
assert h.get_block_size(nbd.SIZE_MINIMUM) == 512
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20


def expect(number, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, number, arguments)
    else:
        raise AssertionError(arguments)


# Bytes, in one piece and in many, with and without FUA.
assert h.pread(1 << 20, 0) == bytearray(1 << 20)
h.pwrite(b"\x01" * 65536, 0)
h.pwrite(b"\x02" * 512, 512, nbd.CMD_FLAG_FUA)
assert h.pread(2048, 0) == b"\x01" * 512 + b"\x02" * 512 + b"\x01" * 1024
h.pwrite(b"\x03" * (32 << 20), 16 << 20)
assert h.pread(32 << 20, 16 << 20) == b"\x03" * (32 << 20)

# A read over data and holes comes in chunks that say which is which.
chunks = []
h.pread_structured(1 << 20, 0, lambda data, offset, status, error: chunks.append((len(data), offset, status)))
assert chunks == [(65536, 0, nbd.READ_DATA), ((1 << 20) - 65536, 65536, nbd.READ_HOLE)], chunks
chunks.clear()
whole = h.pread_structured(
    1 << 20, 0, lambda data, offset, status, error: chunks.append((len(data), offset, status)), nbd.CMD_FLAG_DF
)
assert chunks == [(1 << 20, 0, nbd.READ_DATA)] and whole == h.pread(1 << 20, 0), chunks

# Zeroes, holes and the map.
h.zero(1 << 20, 16 << 20)
h.zero(1 << 20, 17 << 20, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(1 << 20, 18 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(1 << 20, 19 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(4 << 20, 16 << 20) == bytearray(4 << 20)
entries = []
h.block_status(5 << 20, 16 << 20, lambda context, offset, found, error: entries.extend(found))
mib = 1 << 20
assert entries == [mib, 3, mib, 2, 2 * mib, 3, mib, 0], entries
entries.clear()
h.block_status(5 << 20, 16 << 20, lambda context, offset, found, error: entries.extend(found), nbd.CMD_FLAG_REQ_ONE)
assert entries == [mib, 3], entries

h.cache(1 << 20, 0)
h.flush()

# What the protocol forbids is refused, and the connection goes on.
h.set_strict_mode(0)
expect(errno.EINVAL, h.pread, 512, size)
expect(errno.EINVAL, h.pread, 1024, size - 512)
expect(errno.EINVAL, h.pread, 512, 1)
expect(errno.EINVAL, h.pread, 100, 0)
expect(errno.ENOSPC, h.pwrite, b"x" * 512, size)
expect(errno.EINVAL, h.pwrite, b"x" * 100, 0)
expect(errno.EINVAL, h.pwrite, b"x" * 512, 3)
expect(errno.ENOSPC, h.zero, 1024, size - 512)
expect(errno.EINVAL, h.trim, 1024, size - 512)
expect(errno.EINVAL, h.cache, 1024, size - 512)
assert h.pread(512, 512) == b"\x02" * 512

# Many requests at once.
buffers = [(offset, nbd.Buffer(65536)) for offset in range(0, 8 << 20, 65536)]
cookies = [h.aio_pread(buffer, offset) for offset, buffer in buffers]
while h.aio_in_flight() > 0:
    for cookie in list(cookies):
        if h.aio_command_completed(cookie):
            cookies.remove(cookie)
    if cookies:
        h.poll(-1)
assert bytes(buffers[0][1].to_bytearray()[:512]) == b"\x01" * 512
h.shutdown()
print("all is well")
