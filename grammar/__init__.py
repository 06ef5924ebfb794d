"""archrank.grammar"""
