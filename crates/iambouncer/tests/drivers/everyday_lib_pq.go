// Everyday use of lib/pq with database/sql, with its defaults; the PG* variables give the server. Prints the results
// as one line. The driver has no batches and no COPY TO.

package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/lib/pq"
)

// A query whose context ends is cancelled by the driver.
const sleepLimit = 500 * time.Millisecond

// A pool of one connection, as each client has one.
func connect() *sql.DB {
	database, err := sql.Open("postgres", "")
	check(err)
	database.SetMaxOpenConns(1)
	check(database.Ping())
	return database
}

func prepared(database *sql.DB, client int, seen servers) int {
	statement, err := database.Prepare(fmt.Sprintf("SELECT pg_backend_pid(), $1::int + %d", client))
	check(err)
	total := 0
	for number := 0; number < executions; number++ {
		var server, value int
		check(statement.QueryRow(number).Scan(&server, &value))
		seen[server] = true
		total += value
		// A query with arguments uses the unnamed statement in two batches.
		check(database.QueryRow("SELECT $1::int * 2", number).Scan(&value))
		if value != number*2 {
			panic(fmt.Sprintf("%d * 2 = %d", number, value))
		}
	}
	check(statement.Close())
	return total
}

func types(database *sql.DB) []interface{} {
	var null sql.NullInt64
	var yes bool
	var number int64
	var text, numeric string
	var raw, document []byte
	var list []sql.NullInt64
	var at time.Time
	var float float64
	row := database.QueryRow(typesQuery, nil, true, int64(bigNumber), "Grüße €", []byte{0, 255},
		pq.Array([]sql.NullInt64{{Int64: 1, Valid: true}, {}, {Int64: 3, Valid: true}}))
	check(row.Scan(&null, &yes, &number, &text, &raw, pq.Array(&list), &numeric, &at, &float, &document))
	value := func(field sql.NullInt64) interface{} {
		if field.Valid {
			return field.Int64
		}
		return nil
	}
	numbers := []interface{}{}
	for _, field := range list {
		numbers = append(numbers, value(field))
	}
	return []interface{}{value(null), yes, strconv.FormatInt(number, 10), text, hex.EncodeToString(raw), numbers,
		numeric, at.Unix(), float, json.RawMessage(document)}
}

func transactions(database *sql.DB, client int) []int {
	for _, number := range []int{1, 2} {
		tx, err := database.Begin()
		check(err)
		_, err = tx.Exec("INSERT INTO "+table+" VALUES ($1, $2)", client, number)
		check(err)
		if number == 1 {
			check(tx.Commit())
		} else {
			check(tx.Rollback())
		}
	}
	rows, err := database.Query("SELECT number FROM "+table+" WHERE client = $1 AND number < 10", client)
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
	var refused *pq.Error
	if errors.As(err, &refused) {
		return string(refused.Code)
	}
	return fmt.Sprint(err)
}

func failures(database *sql.DB) []string {
	var one int
	tx, err := database.Begin()
	check(err)
	states := []string{stateOf(tx.QueryRow("SELECT 1 / 0").Scan(&one))}
	states = append(states, stateOf(tx.QueryRow("SELECT 1").Scan(&one)))
	check(tx.Rollback())
	check(database.QueryRow("SELECT 1 / $1::int", 1).Scan(&one))
	return append(states, stateOf(database.QueryRow("SELECT 1 / $1::int", 0).Scan(&one)))
}

func copies(database *sql.DB, client int) {
	tx, err := database.Begin()
	check(err)
	statement, err := tx.Prepare(pq.CopyIn(table, "client", "number"))
	check(err)
	for number := copiedBegin; number < copiedEnd; number++ {
		_, err = statement.Exec(client, number)
		check(err)
	}
	_, err = statement.Exec()
	check(err)
	check(statement.Close())
	check(tx.Commit())
}

func largeResult(database *sql.DB) []int {
	rows, err := database.Query(large)
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

// In a transaction the query need not wait for a server, so it runs when the time is over.
func cancelled(database *sql.DB) bool {
	tx, err := database.Begin()
	check(err)
	limited, end := context.WithTimeout(ctx, sleepLimit)
	defer end()
	_, err = tx.ExecContext(limited, sleep)
	// The driver closes the connection, so this may fail.
	_ = tx.Rollback()
	return stateOf(err) == "57014"
}

func results(client int, waitForTheOthers func()) steps {
	seen := servers{}
	database := connect()
	waitForTheOthers()
	var one, four int
	var text string
	check(database.QueryRow("SELECT 1, 'one'").Scan(&one, &text))
	all := steps{"simple": []interface{}{one, text}}
	all["prepared"] = prepared(database, client, seen)
	all["types"] = types(database)
	all["transactions"] = transactions(database, client)
	all["errors"] = failures(database)
	copies(database, client)
	all["large"] = largeResult(database)
	all["cancelled"] = cancelled(database)
	check(database.QueryRow("SELECT 4").Scan(&four))
	all["after cancel"] = four
	check(database.Close())
	database = connect()
	all["reconnected"] = prepared(database, client, seen)
	check(database.Close())
	all["servers"] = seen.list()
	return all
}

func main() { run(results) }
