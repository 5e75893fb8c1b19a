// What the everyday programs in Go share: their clients, constants and output. tests/it/everyday describes the steps,
// the arguments and the results.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	clientCount    = 4
	executions     = 20
	batchBegin     = 100
	batchEnd       = 200
	copiedBegin    = 1000
	copiedEnd      = 11000
	large          = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n"
	sleep          = "SELECT pg_sleep(60)"
	cancelInterval = 50 * time.Millisecond
	typesQuery     = `SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric,
		'2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{"a": [1, null]}'::jsonb`
	bigNumber = 9007199254740993
)

var (
	table    = os.Args[1]
	together = os.Args[2] == "together"
	ctx      = context.Background()
)

type steps map[string]interface{}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// The servers that a client has seen.
type servers map[int]bool

func (seen servers) list() []int {
	list := []int{}
	for server := range seen {
		list = append(list, server)
	}
	return list
}

// Runs a function for each client and prints the results.
func run(results func(client int, waitForTheOthers func()) steps) {
	var connected, ended sync.WaitGroup
	connected.Add(clientCount)
	ended.Add(clientCount)
	clients := make([]steps, clientCount)
	for client := range clients {
		go func(client int) {
			defer ended.Done()
			clients[client] = results(client, func() {
				connected.Done()
				if together {
					connected.Wait()
				}
			})
		}(client)
	}
	ended.Wait()
	line, err := json.Marshal(steps{"clients": clients})
	check(err)
	fmt.Println(string(line))
}
