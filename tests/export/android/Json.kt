package org.json

import python.*

class JSONObject(private val text: String) {
    private fun find(name: String) = String(ask("json", text, name)[0])

    fun getInt(name: String) = find(name).toInt()
    fun getDouble(name: String) = find(name).toDouble()
    fun getJSONObject(name: String) = JSONObject(find(name))
    fun getJSONArray(name: String) = JSONArray(find(name))
}

class JSONArray(private val text: String) {
    private fun find(index: Int) = String(ask("json", text, index)[0])

    fun length() = String(ask("json length", text)[0]).toInt()
    fun getDouble(index: Int) = find(index).toDouble()
    fun getString(index: Int) = find(index)
}
