"""What is changed in how the members of a ring connect: all at the same time, and once."""

from __future__ import annotations

from edl_allreduce.horovod_patch import Patch

CONTEXT = "horovod/common/gloo/gloo_context.cc"
GLOO_CONTEXT = "third_party/gloo/gloo/rendezvous/context.cc"
GLOO_LOOP = "third_party/gloo/gloo/transport/tcp/loop.cc"
GLOO_PAIR = "third_party/gloo/gloo/transport/tcp/pair.cc"

PATCHES = (
    Patch(
        GLOO_CONTEXT,
        """\
  std::vector<char> allBytes;
  int localRank = 0;

  // Get Hostname using syscall
  char hostname[HOSTNAME_MAX_SIZE]; // NOLINT
  int rv = gethostname(hostname, HOSTNAME_MAX_SIZE);
  if (rv != 0) {
    throw std::system_error(errno, std::system_category());
  }

  auto localHostName = std::string(hostname);
  // Add global rank <> hostname pair to the Store. This store is then passed
  // to Gloo when connectFullMesh is called, where Gloo uses the global rank <>
  // hostname mapping to compute local ranks.
  std::string localKey("rank_" + std::to_string(rank));
  const std::vector<char> value(localHostName.begin(), localHostName.end());
  store.set(localKey, value);

  for (int i = 0; i < size; i++) {
    if (i == rank) {
      break;
    }

    std::string key("rank_" + std::to_string(i));
    auto val = store.get(key);
    auto hostName = std::string((const char*)val.data(), val.size());

    if (hostName == localHostName) {
      localRank++;
    }
  }

""",
        "",
        "asked for the host names of all members, to find a local rank that nobody reads",
    ),
    Patch(
        GLOO_CONTEXT,
        """\
    auto& pair = transportContext->createPair(i);
    pair->setLocalRank(localRank);
    auto addrBytes = pair->address().bytes();
    allBytes.insert(allBytes.end(), addrBytes.begin(), addrBytes.end());
  }

  std::ostringstream storeKey;
  storeKey << rank;
  store.set(storeKey.str(), allBytes);

  // Connect every pair
  for (int i = 0; i < size; i++) {
    if (i == rank) {
      continue;
    }

    // Wait for address of other side of this pair to become available
    std::ostringstream key;
    key << i;
    store.wait({key.str()}, getTimeout());

    // Connect to other side of this pair
    auto allAddrs = store.get(key.str());
    auto addr = extractAddress(allAddrs, i);
    transportContext->getPair(i)->connect(addr);
  }

""",
        """\
    own[i] = transportContext->createPair(i)->address().bytes();
  }

  // All begin before anybody waits: else they would wait for each other in turn
  const auto theirs = store.exchange(rank, own, getTimeout());
  for (const auto& each : theirs) {
    transportContext->getPair(each.first)->beginConnect(each.second);
  }
  for (const auto& each : theirs) {
    transportContext->getPair(each.first)->finishConnect();
  }

""",
        "connected one peer after the other, each waiting for its turn",
    ),
    Patch(
        GLOO_CONTEXT,
        """\
  transportContext->setTimeout(getTimeout());
  for (int i = 0; i < size; i++) {
""",
        """\
  transportContext->setTimeout(getTimeout());
  std::map<int, std::vector<char>> own;
  for (int i = 0; i < size; i++) {
""",
        "a name for what is given to the peers",
    ),
    Patch(
        GLOO_CONTEXT,
        '#include "gloo/rendezvous/context.h"\n',
        """\
#include "gloo/rendezvous/context.h"

#include <map>
""",
        "of the above",
    ),
    Patch(
        "third_party/gloo/gloo/transport/pair.h",
        "  // Sets the local rank of the process to be localRank\n",
        """\
  // The two halves of `connect`: many pairs may connect at the same time.
  virtual void beginConnect(const std::vector<char>& bytes) {
    connect(bytes);
  }

  virtual void finishConnect() {}

  // Sets the local rank of the process to be localRank
""",
        "many pairs connect at the same time",
    ),
    Patch(
        "third_party/gloo/gloo/transport/tcp/pair.h",
        "  virtual void setSync(bool sync, bool busyPoll) override;\n",
        """\
  virtual void beginConnect(const std::vector<char>& bytes) override;

  virtual void finishConnect() override;

  virtual void setSync(bool sync, bool busyPoll) override;
""",
        "the same",
    ),
    Patch(
        GLOO_PAIR,
        """\
void Pair::connect(const std::vector<char>& bytes) {
  auto peer = Address(bytes);
  connect(peer);
}
""",
        """\
void Pair::connect(const std::vector<char>& bytes) {
  beginConnect(bytes);
  finishConnect();
}

void Pair::beginConnect(const std::vector<char>& bytes) {
  auto peer = Address(bytes);
  connect(peer);
}

void Pair::finishConnect() {
  std::unique_lock<std::mutex> lock(m_);
  waitUntilConnected(lock, true);
}
""",
        "the same",
    ),
    Patch(
        GLOO_PAIR,
        """\
  if (!is_client_) {
    waitUntilConnected(lock, true);
    return;
  }
""",
        """\
  if (!is_client_) {
    return;
  }
""",
        "the same",
    ),
    Patch(
        GLOO_PAIR,
        """\
  device_->registerDescriptor(fd_, EPOLLIN | EPOLLOUT, this);

  // Wait for connection to complete
  waitUntilConnected(lock, true);
}
""",
        """\
  device_->registerDescriptor(fd_, EPOLLIN | EPOLLOUT, this);
}
""",
        "the same",
    ),
    Patch(
        GLOO_LOOP,
        """\
    std::unique_lock<std::mutex> lock(m_);
    cv_.wait(lock);
    TSAN""",
        """\
    std::unique_lock<std::mutex> lock(m_);
    const auto tick = ticks_;
    defer([] {});
    cv_.wait(lock, [&] { return ticks_ != tick; });
    TSAN""",
        "every second connection that was made, and every one that was closed, waited up to 10 ms for an idle loop",
    ),
    Patch(
        GLOO_LOOP,
        """\
    // Wakeup everyone waiting for a loop tick to finish.
    cv_.notify_all();
""",
        """\
    // Wakeup everyone waiting for a loop tick to finish.
    {
      std::lock_guard<std::mutex> lock(m_);
      ticks_++;
    }
    cv_.notify_all();
""",
        "the same",
    ),
    Patch(
        "third_party/gloo/gloo/transport/tcp/loop.h",
        "  std::condition_variable cv_;\n",
        """\
  std::condition_variable cv_;
  uint64_t ticks_{0};
""",
        "the same",
    ),
    Patch(
        CONTEXT,
        """\
  if (server_addr_env != nullptr) {
    std::string server_addr = server_addr_env;
    store.reset(""",
        """\
  if (server_addr_env != nullptr && size > 1) {
    std::string server_addr = server_addr_env;
    store.reset(""",
        "a context of one process has nobody to ask for",
    ),
    Patch(
        CONTEXT,
        """\
  attr device_attr;
  device_attr.iface = gloo_iface_;
  device_attr.ai_family = AF_UNSPEC;
  auto dev = CreateDevice(device_attr);

  global_ctx = global_context.ctx;
  timeout_ = global_context.timeout_;
  hostname_ = global_context.hostname_;
""",
        """\
  global_ctx = global_context.ctx;
  timeout_ = global_context.timeout_;
  hostname_ = global_context.hostname_;
  if (registered_ranks.empty()) {
    // All processes: what connects them already serves here as well.
    ctx = global_context.ctx;
    local_ctx = global_context.local_ctx;
    cross_ctx = global_context.cross_ctx;
    return;
  }

  attr device_attr;
  device_attr.iface = gloo_iface_;
  device_attr.ai_family = AF_UNSPEC;
  auto dev = CreateDevice(device_attr);
""",
        "connected all processes a second time; only one thread uses either",
    ),
)
