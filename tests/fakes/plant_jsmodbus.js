/*
 * A Modbus TCP server of jsmodbus, which shares nothing with ours nor with pymodbus.
 *
 * usage: NODE_PATH=.../node_modules node plant_jsmodbus.js PORT
 *
 * As plant_pymodbus.py: lines of JSON on standard input set and get its data. It does not have
 * function 23.
 */
'use strict'
const modbus = require('jsmodbus')
const net = require('net')
const readline = require('readline')

const registers = 65536
const tables = {
  holding: Buffer.alloc(2 * registers),
  input: Buffer.alloc(2 * registers),
  coil: Buffer.alloc(registers / 8),
  discrete: Buffer.alloc(registers / 8)
}

function get (kind, address) {
  const table = tables[kind]
  if (kind === 'holding' || kind === 'input') return table.readUInt16BE(2 * address)
  return table[address >> 3] >> (address & 7) & 1
}

function set (kind, address, value) {
  const table = tables[kind]
  if (kind === 'holding' || kind === 'input') table.writeUInt16BE(value, 2 * address)
  else if (value) table[address >> 3] |= 1 << (address & 7)
  else table[address >> 3] &= ~(1 << (address & 7))
}

const listener = new net.Server()
new modbus.server.TCP(listener, { // eslint-disable-line no-new
  holding: tables.holding, input: tables.input, coils: tables.coil, discrete: tables.discrete
})
listener.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'))

readline.createInterface({ input: process.stdin }).on('line', line => {
  const ask = JSON.parse(line)
  let answer = true
  if (ask.do === 'set') ask.values.forEach((v, i) => set(ask.kind, ask.address + i, v))
  else answer = Array.from({ length: ask.count }, (_, i) => get(ask.kind, ask.address + i))
  console.log(JSON.stringify(answer))
}).on('close', () => process.exit(0)) // our parent is gone
