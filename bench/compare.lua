-- The requests of compare-etcd.sh, for wrk. SYSTEM is etcd or raft-kv, OP is put or get.
-- With FILL, the keys are written in order, from that number on.

local system, op = os.getenv("SYSTEM"), os.getenv("OP")
local keys, value_bytes = tonumber(os.getenv("KEYS")), tonumber(os.getenv("VALUE_BYTES"))
local fill = tonumber(os.getenv("FILL"))
local value = string.rep("x", value_bytes)

local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local number = a * 65536 + (b or 0) * 256 + (c or 0)
    local digits = { number / 262144, number / 4096 % 64, number / 64 % 64, number % 64 }
    for place = 1, 4 do
      local missing = (place == 3 and not b) or (place == 4 and not c)
      local digit = math.floor(digits[place]) + 1
      out[#out + 1] = missing and "=" or alphabet:sub(digit, digit)
    end
  end
  return table.concat(out)
end

-- Both systems get requests that are ready: what the client does for one costs both the same.
local value64 = base64(value)
local headers = { ["Content-Type"] = "application/json" }

local function build(number)
  local key = string.format("bench/%08d", number)
  if system == "etcd" and op == "put" then
    return wrk.format("POST", "/v3/kv/put", headers,
      '{"key":"' .. base64(key) .. '","value":"' .. value64 .. '"}')
  elseif system == "etcd" then
    return wrk.format("POST", "/v3/kv/range", headers, '{"key":"' .. base64(key) .. '"}')
  elseif op == "put" then
    return wrk.format("PUT", "/v1/kv/" .. key, {}, value)
  end
  return wrk.format("GET", "/v1/kv/" .. key, {}, nil)
end

local requests, next_number = {}, fill or 0

function init(args)
  math.randomseed(os.time())
  for number = 0, keys - 1 do
    requests[number] = build(number)
  end
end

function request()
  if not fill then
    return requests[math.random(0, keys - 1)]
  end
  next_number = next_number + 1
  return requests[(next_number - 1) % keys]
end

function done(summary, latency, _)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout
  -- wrk counts answers with an error status among the requests. Only the others were done.
  local good = summary.requests - summary.errors.status
  io.write(string.format("result %.1f %.3f %.3f %d\n", good / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, bad))
end
