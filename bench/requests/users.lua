-- Requests of users by chance, for wrk: `wrk … -s users.lua URL -- FIRST COUNT`. Ends with a line of figures.
local requests = {}

function init(args)
  math.randomseed(os.time())
  local from, count = tonumber(args[1]), tonumber(args[2])
  for i = 1, count do
    requests[i] = wrk.format("GET", nil, { ["x-user"] = "user-" .. (from + i - 1) })
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'figures {"requests": %d, "microseconds": %d, "errors": %d, "above399": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50), latency:percentile(99)
  ))
end
