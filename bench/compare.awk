#!/usr/bin/awk -f
# Medians and ratios of the lines that compare-etcd.sh writes:
# round system operation connections done/s p50 p99 errors cpu% steal%

{
    key = $3 " " $4
    if (!(key in seen)) { seen[key] = 1; order[++keys] = key }
    rate[key, $2, $1] = $5
    rates[key, $2] = rates[key, $2] " " $5
    p50[key, $2] = p50[key, $2] " " $6
    p99[key, $2] = p99[key, $2] " " $7
    errors[key, $2] += $8
    cpu[key, $2] = cpu[key, $2] " " $9
    if ($10 > steal) steal = $10
    if ($1 > rounds) rounds = $1
}

# The median of a list of numbers; the least and the greatest are left in low and high.
function median(list,    values, count, at, other, swap) {
    count = split(list, values, " ")
    for (at = 2; at <= count; at++)
        for (other = at; other > 1 && values[other - 1] + 0 > values[other] + 0; other--) {
            swap = values[other]; values[other] = values[other - 1]; values[other - 1] = swap
        }
    low = values[1]
    high = values[count]
    return values[int(count / 2) + 1]
}

END {
    print "| op | connections | system | done/s | min to max | p50 ms | p99 ms | errors | CPU % |"
    print "|---|---|---|---|---|---|---|---|---|"
    for (at = 1; at <= keys; at++) {
        key = order[at]
        split(key, parts, " ")
        for (which = 1; which <= 2; which++) {
            system_name = which == 1 ? "etcd" : "raft-kv"
            all = median(rates[key, system_name])
            spread = sprintf("%d to %d", low, high)
            printf "| %s | %s | %s | %d | %s | %.2f | %.2f | %d | %d |\n", parts[1], parts[2],
                system_name, all, spread, median(p50[key, system_name]),
                median(p99[key, system_name]), errors[key, system_name], median(cpu[key, system_name])
        }
    }
    print ""
    print "| op | connections | raft-kv / etcd, median | min to max |"
    print "|---|---|---|---|"
    for (at = 1; at <= keys; at++) {
        key = order[at]
        split(key, parts, " ")
        list = ""
        for (round = 1; round <= rounds; round++)
            if (rate[key, "etcd", round] > 0)
                list = list " " rate[key, "raft-kv", round] / rate[key, "etcd", round]
        if (list == "") continue
        all = median(list)
        printf "| %s | %s | %.2f | %.2f to %.2f |\n", parts[1], parts[2], all, low, high
    }
    printf "\nmost CPU time stolen in one measurement: %.1f %%\n", steal
}
