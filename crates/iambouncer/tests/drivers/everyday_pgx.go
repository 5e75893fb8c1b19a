// Everyday use of pgx 4, with its defaults; the PG* variables give the server. Prints the results as one line.

package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
)

func connect() *pgx.Conn {
	connection, err := pgx.Connect(ctx, "")
	check(err)
	return connection
}

// Each query is prepared and kept in the driver's cache.
func prepared(connection *pgx.Conn, client int, seen servers) int {
	total := 0
	for number := 0; number < executions; number++ {
		var server, value int
		query := fmt.Sprintf("SELECT pg_backend_pid(), $1::int + %d", client)
		check(connection.QueryRow(ctx, query, number).Scan(&server, &value))
		seen[server] = true
		total += value
	}
	return total
}

func types(connection *pgx.Conn) []interface{} {
	var null *int
	var yes bool
	var number int64
	var text string
	var numeric pgtype.Numeric
	var raw []byte
	var list []*int32
	var at time.Time
	var float float64
	var document map[string]interface{}
	one, three := int32(1), int32(3)
	row := connection.QueryRow(ctx, typesQuery, nil, true, int64(bigNumber), "Grüße €", []byte{0, 255},
		[]*int32{&one, nil, &three})
	check(row.Scan(&null, &yes, &number, &text, &raw, &list, &numeric, &at, &float, &document))
	var decimal float64
	check(numeric.AssignTo(&decimal))
	return []interface{}{null, yes, strconv.FormatInt(number, 10), text, hex.EncodeToString(raw), list,
		fmt.Sprintf("%.2f", decimal), at.Unix(), float, document}
}

func batch(connection *pgx.Conn, client int) int {
	queries := &pgx.Batch{}
	for number := batchBegin; number < batchEnd; number++ {
		queries.Queue("INSERT INTO "+table+" VALUES ($1, $2)", client, number)
	}
	answers := connection.SendBatch(ctx, queries)
	inserted := 0
	for number := batchBegin; number < batchEnd; number++ {
		tag, err := answers.Exec()
		check(err)
		inserted += int(tag.RowsAffected())
	}
	check(answers.Close())
	return inserted
}

func transactions(connection *pgx.Conn, client int) []int {
	insert := "INSERT INTO " + table + " VALUES ($1, $2)"
	check(connection.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insert, client, 1)
		return err
	}))
	tx, err := connection.Begin(ctx)
	check(err)
	_, err = tx.Exec(ctx, insert, client, 2)
	check(err)
	check(tx.Rollback(ctx))
	rows, err := connection.Query(ctx, "SELECT number FROM "+table+" WHERE client = $1 AND number < 10", client)
	check(err)
	defer rows.Close()
	numbers := []int{}
	for rows.Next() {
		var number int
		check(rows.Scan(&number))
		numbers = append(numbers, number)
	}
	check(rows.Err())
	return numbers
}

func stateOf(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return fmt.Sprint(err)
}

func failures(connection *pgx.Conn) []string {
	var one int
	tx, err := connection.Begin(ctx)
	check(err)
	states := []string{stateOf(tx.QueryRow(ctx, "SELECT 1 / 0").Scan(&one))}
	states = append(states, stateOf(tx.QueryRow(ctx, "SELECT 1").Scan(&one)))
	check(tx.Rollback(ctx))
	check(connection.QueryRow(ctx, "SELECT 1 / $1::int", 1).Scan(&one))
	return append(states, stateOf(connection.QueryRow(ctx, "SELECT 1 / $1::int", 0).Scan(&one)))
}

func copies(connection *pgx.Conn, client int) []int {
	next := copiedBegin
	rows := pgx.CopyFromSlice(copiedEnd-copiedBegin, func(at int) ([]interface{}, error) {
		return []interface{}{client, next + at}, nil
	})
	_, err := connection.CopyFrom(ctx, pgx.Identifier{table}, []string{"client", "number"}, rows)
	check(err)
	query := fmt.Sprintf("SELECT number FROM %s WHERE client = %d AND number >= %d", table, client, copiedBegin)
	var output bytes.Buffer
	_, err = connection.PgConn().CopyTo(ctx, &output, "COPY ("+query+") TO STDOUT")
	check(err)
	count, sum := 0, 0
	for _, line := range strings.Fields(output.String()) {
		number, err := strconv.Atoi(line)
		check(err)
		count, sum = count+1, sum+number
	}
	return []int{count, sum}
}

func largeResult(connection *pgx.Conn) []int {
	rows, err := connection.Query(ctx, large)
	check(err)
	defer rows.Close()
	count, characters := 0, 0
	for rows.Next() {
		var number int
		var filling string
		check(rows.Scan(&number, &filling))
		count, characters = count+1, characters+len(filling)
	}
	check(rows.Err())
	return []int{count, characters}
}

// Cancels until the query ends: a request that arrives before the query does nothing.
func cancelled(connection *pgx.Conn) bool {
	ended := make(chan error, 1)
	go func() {
		_, err := connection.Exec(ctx, sleep)
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			return stateOf(err) == "57014"
		case <-time.After(cancelInterval):
			check(connection.PgConn().CancelRequest(ctx))
		}
	}
}

func results(client int, waitForTheOthers func()) steps {
	seen := servers{}
	connection := connect()
	waitForTheOthers()
	var one, four int
	var text string
	check(connection.QueryRow(ctx, "SELECT 1, 'one'", pgx.QuerySimpleProtocol(true)).Scan(&one, &text))
	all := steps{"simple": []interface{}{one, text}}
	all["prepared"] = prepared(connection, client, seen)
	all["types"] = types(connection)
	all["batch"] = batch(connection, client)
	all["transactions"] = transactions(connection, client)
	all["errors"] = failures(connection)
	all["copied"] = copies(connection, client)
	all["large"] = largeResult(connection)
	all["cancelled"] = cancelled(connection)
	check(connection.QueryRow(ctx, "SELECT 4").Scan(&four))
	all["after cancel"] = four
	check(connection.Close(ctx))
	connection = connect()
	all["reconnected"] = prepared(connection, client, seen)
	check(connection.Close(ctx))
	all["servers"] = seen.list()
	return all
}

func main() { run(results) }
