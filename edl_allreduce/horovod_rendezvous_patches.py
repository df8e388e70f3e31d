"""What is changed in how Horovod's processes find each other: rings of living processes are made again and again."""

from __future__ import annotations

from edl_allreduce.horovod_patch import Patch

GLOO_STORE = "third_party/gloo/gloo/rendezvous/store.h"
HTTP_REQUEST = "third_party/HTTPRequest/include/HTTPRequest.hpp"
HTTP_STORE = "horovod/common/gloo/http_store.cc"
HTTP_STORE_H = "horovod/common/gloo/http_store.h"

PATCHES = (
    Patch(
        GLOO_STORE,
        """\
#include <chrono>
#include <string>
""",
        """\
#include <chrono>
#include <map>
#include <string>
""",
        "of `exchange`",
    ),
    Patch(
        GLOO_STORE,
        """\
    GLOO_THROW_INVALID_OPERATION_EXCEPTION("this store doesn't support add");
  }
""",
        """\
    GLOO_THROW_INVALID_OPERATION_EXCEPTION("this store doesn't support add");
  }

  // Gives each of these peers its value, and returns what each of them has for
  // this rank. They are the same peers both ways.
  virtual std::map<int, std::vector<char>> exchange(
      int rank,
      const std::map<int, std::vector<char>>& values,
      const std::chrono::milliseconds& timeout) {
    const auto key = [](int from, int to) {
      return std::to_string(from) + "_" + std::to_string(to);
    };
    for (const auto& each : values) {
      set(key(rank, each.first), each.second);
    }
    std::map<int, std::vector<char>> received;
    for (const auto& each : values) {
      wait({key(each.first, rank)}, timeout);
      received[each.first] = get(key(each.first, rank));
    }
    return received;
  }
""",
        "all addresses that are meant for a member come in one answer, once they are there: 6 N (N - 1) requests "
        "for a ring of N become N",
    ),
    Patch(
        HTTP_STORE_H,
        "  bool CheckKeys(const std::vector<std::string>& keys);\n",
        """\
  std::map<int, std::vector<char>>
  exchange(int rank, const std::map<int, std::vector<char>>& values,
           const std::chrono::milliseconds& timeout) override;

  bool CheckKeys(const std::vector<std::string>& keys);
""",
        "see Store::exchange; rendezvous/store.py answers",
    ),
    Patch(
        HTTP_STORE_H,
        """\
  int rank_;
};
""",
        """\
  int rank_;
  bool exchanged_ = false;
};
""",
        "the same",
    ),
    Patch(
        HTTP_STORE_H,
        "#define HTTP_NOT_FOUND 404\n",
        """\
#define HTTP_NOT_FOUND 404
#define HTTP_NOT_IMPLEMENTED 501
""",
        "the same",
    ),
    Patch(
        HTTP_STORE_H,
        "#define RETRY_WAITING_TIME_MILLSEC 500\n",
        "#define RETRY_WAITING_TIME_MILLSEC 20\n",
        "the store of an abandoned round is closed; waiting members should notice at once, not after 1.5 s",
    ),
    Patch(
        HTTP_STORE,
        "    std::this_thread::sleep_for(std::chrono::milliseconds(10));\n",
        "    std::this_thread::sleep_for(std::chrono::milliseconds(1));\n",
        "where Horovod's own server is asked, each wait for a key cost 10 ms",
    ),
    Patch(
        HTTP_STORE,
        "#include <cstring>\n",
        """\
#include <arpa/inet.h>

#include <cstring>
""",
        "of `exchange`",
    ),
    Patch(
        HTTP_STORE,
        "void HTTPStore::Finalize() { HTTP_DELETE(std::to_string(rank_)); }\n",
        """\
void HTTPStore::Finalize() {
  if (!exchanged_) {
    HTTP_DELETE(std::to_string(rank_));
  }
}
""",
        "the store of a round ends with its round",
    ),
    Patch(
        HTTP_STORE,
        "      if (response.status != HTTP_OK && response.status != HTTP_NOT_FOUND) {\n",
        """\
      if (response.status != HTTP_OK && response.status != HTTP_NOT_FOUND &&
          response.status != HTTP_NOT_IMPLEMENTED) {
""",
        "Horovod's own server knows no POST; then the values go one by one",
    ),
    Patch(
        HTTP_STORE,
        """\
bool HTTPStore::CheckKeys(""",
        """\
std::map<int, std::vector<char>>
HTTPStore::exchange(int rank, const std::map<int, std::vector<char>>& values,
                    const std::chrono::milliseconds& timeout) {
  // There and back: rank and length of each value, and the value.
  std::string body;
  for (const auto& each : values) {
    const uint32_t head[] = {
        htonl(static_cast<uint32_t>(each.first)),
        htonl(static_cast<uint32_t>(each.second.size()))};
    body.append(reinterpret_cast<const char*>(head), sizeof(head));
    body.append(each.second.data(), each.second.size());
  }
  http::Request request(url_prefix_ + std::to_string(rank));
  if (timeout != gloo::kNoTimeout) {
    request.deadline = std::chrono::steady_clock::now() + timeout;
  }
  const auto response = PerformHTTP(request, "POST", body);
  if (response.status == HTTP_NOT_IMPLEMENTED) {
    return GlooStore::exchange(rank, values, timeout);
  }

  std::map<int, std::vector<char>> received;
  auto at = response.body.begin();
  uint32_t head[2];
  while (response.body.end() - at >= static_cast<ptrdiff_t>(sizeof(head))) {
    std::memcpy(head, &*at, sizeof(head));
    at += sizeof(head);
    const auto length = std::min<ptrdiff_t>(ntohl(head[1]), response.body.end() - at);
    received[static_cast<int>(ntohl(head[0]))].assign(at, at + length);
    at += length;
  }
  for (const auto& each : values) {
    if (received[each.first].size() != each.second.size()) {
      GLOO_THROW_IO_EXCEPTION("No address came from rank ", each.first);
    }
  }
  exchanged_ = true;
  return received;
}

bool HTTPStore::CheckKeys(""",
        "see Store::exchange; one request that is answered when all is there",
    ),
    Patch(
        HTTP_REQUEST,
        "#include <algorithm>\n",
        """\
#include <algorithm>
#include <chrono>
""",
        "of `deadline`",
    ),
    Patch(
        HTTP_REQUEST,
        """\
#ifdef _WIN32
        WinSock winSock;
#endif
        InternetProtocol internetProtocol;
""",
        """\
        void limit(const Socket& socket) const
        {
#ifndef _WIN32
            using namespace std::chrono;
            if (deadline == steady_clock::time_point::max()) return;
            const auto left = duration_cast<microseconds>(deadline - steady_clock::now()).count();
            if (left <= 0)
                throw std::runtime_error("No answer in time");
            timeval tv{};
            tv.tv_sec = left / 1000000;
            tv.tv_usec = left % 1000000;
            setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
            setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
#endif
        }

#ifdef _WIN32
        WinSock winSock;
#endif
        InternetProtocol internetProtocol;
""",
        "an answer that comes late must not be waited for without end",
    ),
    Patch(
        HTTP_REQUEST,
        """\
            Socket socket(internetProtocol);

            // take""",
        """\
            Socket socket(internetProtocol);
            limit(socket);

            // take""",
        "the same",
    ),
    Patch(
        HTTP_REQUEST,
        """\
    class Request final
    {
    public:
""",
        """\
    class Request final
    {
    public:
        // When to give up connecting, sending and waiting for the answer.
        std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();

""",
        "the same",
    ),
)
